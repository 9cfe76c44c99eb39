"""The dashboards, one file each. panels.py has the shared parts."""
