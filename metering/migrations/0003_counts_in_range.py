"""Drafts of prices, and corrections of published ones."""

from django.db import migrations

COUNTS = (
    "input_tokens", "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens",
    "reasoning_tokens", "image_input_tokens", "audio_input_tokens", "cached_image_tokens", "cached_audio_tokens",
    "image_output_tokens", "audio_output_tokens",
)

IN_RANGE = f"""
ALTER TABLE usage_record DROP CONSTRAINT usage_record_counts_not_negative;
ALTER TABLE usage_record ADD CONSTRAINT usage_record_counts_not_negative
    CHECK (corrects_id IS NOT NULL OR least({', '.join(COUNTS)}) >= 0);
ALTER TABLE request_log ADD CONSTRAINT request_log_counts_not_negative
    CHECK (least(input_tokens, output_tokens) >= 0);
"""
IN_RANGE_UNDO = """
ALTER TABLE request_log DROP CONSTRAINT request_log_counts_not_negative;
ALTER TABLE usage_record DROP CONSTRAINT usage_record_counts_not_negative;
ALTER TABLE usage_record ADD CONSTRAINT usage_record_counts_not_negative
    CHECK (corrects_id IS NOT NULL OR (input_tokens >= 0 AND output_tokens >= 0));
"""


class Migration(migrations.Migration):

    dependencies = [
        ('metering', '0002_price_rules'),
    ]

    operations = [migrations.RunSQL(IN_RANGE, IN_RANGE_UNDO)]
