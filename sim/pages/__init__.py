"""What pages about runs share: colours, a style sheet and scripts, as text that a page holds inside itself."""
