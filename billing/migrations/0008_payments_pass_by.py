"""Accounts and kinds of transfers that payments, taxes, fees and disputes need."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0007_topups'),
    ]

    operations = [
        migrations.AlterField(
            model_name='transfer',
            name='credit',
            field=models.TextField(choices=[('wallet', 'Wallet'), ('overdraft', 'overdraft receivable'), ('revenue', 'Revenue'), ('promotions', 'Promotions'), ('stripe_clearing', 'Stripe Clearing'), ('breakage', 'Breakage'), ('write_offs', 'Write Offs'), ('adjustments', 'Adjustments'), ('receivables', 'Receivables'), ('taxes', 'Taxes'), ('payment_fees', 'Payment Fees'), ('disputes', 'Disputes'), ('bank', 'Bank')]),
        ),
        migrations.AlterField(
            model_name='transfer',
            name='debit',
            field=models.TextField(choices=[('wallet', 'Wallet'), ('overdraft', 'overdraft receivable'), ('revenue', 'Revenue'), ('promotions', 'Promotions'), ('stripe_clearing', 'Stripe Clearing'), ('breakage', 'Breakage'), ('write_offs', 'Write Offs'), ('adjustments', 'Adjustments'), ('receivables', 'Receivables'), ('taxes', 'Taxes'), ('payment_fees', 'Payment Fees'), ('disputes', 'Disputes'), ('bank', 'Bank')]),
        ),
        migrations.AlterField(
            model_name='transfer',
            name='kind',
            field=models.TextField(choices=[('charge', 'Charge'), ('draw', 'overdraft drawn'), ('repayment', 'overdraft repaid'), ('grant', 'promotional grant'), ('topup', 'top-up'), ('adjustment', 'Adjustment'), ('refund', 'Refund'), ('write_off', 'Write Off'), ('expiry', 'credit expired'), ('void', 'Void'), ('rerate_up', 're-rated upwards'), ('rerate_down', 're-rated downwards'), ('invoice', 'invoice paid'), ('tax', 'Tax'), ('fee', 'payment fee'), ('clawback', 'payment taken back'), ('dispute', 'payment disputed')]),
        ),
    ]
