"""What the command line needs: flags, errors in one line, and the command that trains."""
