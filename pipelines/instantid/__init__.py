"""InstantID on SDXL with LCM: IdentityNet, canny/pose/depth ControlNets, IP-adapter (arXiv:2401.07519)."""
