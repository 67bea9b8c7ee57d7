"""How methods call networks: one line, ``predict(x, t, cond)``, and the names of a network's parameters."""

from .network import Cond, Network, freeze_unfed
from .vgen import Conditions, Control, VgenNetwork

__all__ = ["Cond", "Conditions", "Control", "Network", "VgenNetwork", "freeze_unfed"]
