"""What the processes of one fleet know of each other, kept up in the background."""
