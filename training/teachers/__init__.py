"""Teachers: one entry, `load_teacher`, for every file and folder that a student can be distilled from."""

from .adapted import with_lora
from .loading import load_autoencoder, load_encoders, load_teacher, teacher_settings
from .teacher import Teacher

__all__ = ["Teacher", "load_autoencoder", "load_encoders", "load_teacher", "teacher_settings", "with_lora"]
