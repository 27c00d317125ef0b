"""The desk of customers: their web pages, for people who are members of an organization."""
