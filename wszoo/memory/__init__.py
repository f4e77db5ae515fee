"""Training in less memory: levels at which activations are computed again instead of kept."""

from wszoo.memory.held import held_bytes
from wszoo.memory.levels import (
    MEMORY,
    Memory,
    can_save_memory,
    memory_of,
    require_memory,
    save_memory,
)

__all__ = [
    "MEMORY",
    "Memory",
    "can_save_memory",
    "held_bytes",
    "memory_of",
    "require_memory",
    "save_memory",
]
