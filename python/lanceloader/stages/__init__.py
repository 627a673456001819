"""What happens to a raw batch before it is handed out: format, transform, collate, copy to a device."""
