"""GoogLeNet region classification: boxes to detections to files to mAP."""
