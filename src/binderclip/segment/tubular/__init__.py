"""Lines from one point to another along a tube: minimal paths whose cost a small network gives (p174)."""
