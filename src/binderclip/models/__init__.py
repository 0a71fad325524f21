"""binderclip.models"""
