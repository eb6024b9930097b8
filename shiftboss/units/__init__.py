"""What systemd needs to run this: units, hardening, the user, folders. `files/` holds them as they are installed.

Arrows: this package knows settings and files, nothing of the service itself.
"""
