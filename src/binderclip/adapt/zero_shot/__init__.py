"""Classification by texts alone: descriptions, contexts, pools and views."""
