"""Nodes that make trying and comparing easy."""
