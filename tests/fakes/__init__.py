"""Stand-ins for what is not on this machine. Each says in its docstring and on its pages that it is a fake."""
