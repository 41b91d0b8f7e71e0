"""How fast are we, and how fast are others on the same machine at the same time?"""
