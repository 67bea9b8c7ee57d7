"""Training, distillation and evaluation of few-step latent video models; never imports the ComfyUI side."""
