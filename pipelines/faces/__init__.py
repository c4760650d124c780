"""Faces in a photo: box, five keypoints, ArcFace embedding, aligned crop."""
