"""Made scenes with exact masks: vocabulary, layout, backgrounds, composition, captions, pairs."""
