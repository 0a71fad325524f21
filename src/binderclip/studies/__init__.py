"""binderclip.studies"""
