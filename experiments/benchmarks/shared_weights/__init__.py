"""What searching by shared weights is worth against training every network alone."""
