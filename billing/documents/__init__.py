"""Documents about money as people read them: what they say, as PDF and as CSV. Pure: no Django, no I/O."""
