"""How much: the catalog and its dated prices, rating, usage records and their queries."""
