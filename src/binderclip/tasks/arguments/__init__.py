"""Words of a user, parsed: labels, points, boxes, marks, transforms."""
