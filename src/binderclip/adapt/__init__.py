"""binderclip.adapt"""
