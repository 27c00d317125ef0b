"""Price lists of others, and our own file, read into drafts. Pure: bytes in, drafts and findings out.

``litellm``, ``openrouter`` and ``tollbook`` each have ``read(raw) -> Drafted`` (see ``drafted``).
Nothing here looks anything up or writes anything, and nothing is rounded but the noise of floats
(``amounts.without_noise``), which is reported. A model whose price cannot be told exactly gets no
draft, and the finding says where and why; what a list prices and a rate card cannot say is shown
with the draft. A document that cannot be read at all raises ``BadSource``, and nothing raises
anything else. ``compare`` sets two results, or two cards, side by side.
"""
