"""What verbs share: options, inputs, output, pages, sheets, boxes, marks."""
