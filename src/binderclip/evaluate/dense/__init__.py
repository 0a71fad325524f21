"""What the maps and the clicks of a model are worth on scenes whose masks are exact."""
