"""Who: organizations, their members and roles, API keys, authentication, permissions, the audit trail."""
