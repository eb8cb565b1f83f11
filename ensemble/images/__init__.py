"""Image files and their pixels: headers, decoding, the scan, the cache, augmentation, batches.

Take `scan.scan_images`, `cache.build_pixels` and `batches`. Modules that say "worker-only" need a compiler or
albumentations, and are imported by workers alone.
"""
