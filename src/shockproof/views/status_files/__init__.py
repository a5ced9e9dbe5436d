"""The style, the script and the sign of the status page, as they are served."""
