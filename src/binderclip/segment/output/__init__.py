"""Results: label maps with their classes, palette, sheets, COCO documents, boxes."""
