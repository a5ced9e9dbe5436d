"""Published prices that the demo replays; ``SOURCE.md`` beside this file names their source and terms."""
