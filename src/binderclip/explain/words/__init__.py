"""Attribution to the words of a caption."""
