"""QR codes that are pictures: made by a diffusion model, then checked by the readers that phones use, and repaired."""
