"""The dashboards, a file each; what their panels share is in panels.py."""
