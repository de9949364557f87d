"""One network, one training loop."""
