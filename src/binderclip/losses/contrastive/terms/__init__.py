"""What stands beside or instead of the basic contrastive loss: further terms, and losses of views and patches."""
