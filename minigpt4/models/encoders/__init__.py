"""Vision encoders, one short file each."""
