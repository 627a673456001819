"""The worker processes of ``lanceloader.torch.DataLoader``."""
