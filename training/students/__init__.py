"""Students: which weights train (all of them, or a LoRA), and the files that a finished one is written to."""

from .diffusers_folder import export_diffusers
from .export import LcmSettings, export_student, student_metadata
from .lora import DEFAULT_TARGETS, LoraOptions, LoraStudent, lora_student, target_names
from .lora_files import export_lora_kohya, export_lora_peft, lora_tensors
from .lora_start import start_at
from .student import FullStudent, Student, full_student

__all__ = [
    "DEFAULT_TARGETS",
    "FullStudent",
    "LcmSettings",
    "LoraOptions",
    "LoraStudent",
    "Student",
    "export_diffusers",
    "export_lora_kohya",
    "export_lora_peft",
    "export_student",
    "full_student",
    "lora_student",
    "lora_tensors",
    "start_at",
    "student_metadata",
    "target_names",
]
