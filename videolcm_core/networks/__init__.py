"""Networks, with the authors' state-dict keys."""
