"""What leaves this machine, and who may do what: frozen views, bundles, roles, the audit log."""
