"""The published clipping methods, one file each: its threshold rule and the constructor that fixes its choices."""
