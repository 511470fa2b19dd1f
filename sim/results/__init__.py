"""What a sealed run folder says: every copy with its fate, the story, the verdict, the pictures. No redis, no asyncio."""
