"""A found network as the backbone of torchvision's heads, on images that are drawn on the spot."""
