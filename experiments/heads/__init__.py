"""Networks as backbones of torchvision's detection and segmentation heads, trained on synthetic images."""
