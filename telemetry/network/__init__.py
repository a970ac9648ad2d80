"""What stands between this machine and a server: proxies and credentials."""
