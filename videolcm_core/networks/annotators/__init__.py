"""Networks that draw conditions from frames."""
