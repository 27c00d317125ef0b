"""Payments, refunds, disputes, saved cards, Stripe's customers and events; top-ups that people ask for."""

import core.fields
import core.ids
import django.db.models.deletion
import django.db.models.expressions
import django.utils.timezone
from decimal import Decimal
from django.db import migrations, models


UNDELETABLE = ("payment", "refund", "dispute", "stripe_event")
GUARDS = "".join(
    f"CREATE TRIGGER no_delete BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_change();"
    f"CREATE TRIGGER no_truncate BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();"
    for table in UNDELETABLE
)
GUARDS_UNDO = "".join(
    f"DROP TRIGGER no_delete ON {table}; DROP TRIGGER no_truncate ON {table};" for table in UNDELETABLE
)


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0008_payments_pass_by'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='Dispute',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='dispute', primary_key=True, serialize=False)),
                ('stripe_id', models.TextField(unique=True)),
                ('amount_usd', core.fields.UsdField()),
                ('tax_usd', core.fields.UsdField(default=0)),
                ('frozen_usd', core.fields.UsdField(default=0)),
                ('grant_id', models.UUIDField(blank=True, help_text='Where the frozen part came from', null=True)),
                ('withdrawn_usd', core.fields.UsdField(default=0)),
                ('reinstated_usd', core.fields.UsdField(default=0)),
                ('fee_usd', core.fields.UsdField(default=0)),
                ('reason', models.TextField(default='')),
                ('state', models.TextField(choices=[('inquiry', 'only asked about'), ('open', 'Open'), ('won', 'Won'), ('lost', 'Lost')])),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('closed_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'dispute',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Payment',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='pay', primary_key=True, serialize=False)),
                ('purpose', models.TextField(choices=[('topup', 'top-up'), ('invoice', 'Invoice')])),
                ('subject_id', models.UUIDField()),
                ('method', models.TextField(choices=[('checkout', "Stripe's page"), ('card', 'saved card')])),
                ('amount_usd', core.fields.UsdField()),
                ('tax_usd', core.fields.UsdField(default=0)),
                ('off_session', models.BooleanField(default=False, help_text='The customer is not there to confirm anything')),
                ('success_url', models.TextField(default='')),
                ('cancel_url', models.TextField(default='')),
                ('state', models.TextField(choices=[('pending', 'Stripe has not been asked yet'), ('called', 'asked, no answer yet'), ('requires_action', 'waits for the customer'), ('processing', 'under way at Stripe'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('canceled', 'Canceled')], default='pending')),
                ('request', models.JSONField(help_text='The parameters of the call', null=True)),
                ('session_id', models.TextField(blank=True, null=True, unique=True)),
                ('intent_id', models.TextField(blank=True, null=True, unique=True)),
                ('charge_id', models.TextField(blank=True, null=True, unique=True)),
                ('checkout_url', models.TextField(default='')),
                ('next_action_url', models.TextField(default='')),
                ('failure_code', models.TextField(default='')),
                ('failure_message', models.TextField(default='')),
                ('parked', models.TextField(default='', help_text='Why a person must look before anything is credited')),
                ('surplus', models.BooleanField(default=False, help_text='What it was for had been paid already; it goes back')),
                ('received_usd', core.fields.UsdField(default=0)),
                ('refunded_usd', core.fields.UsdField(default=0)),
                ('fee_usd', core.fields.UsdField(blank=True, null=True)),
                ('attempts', models.IntegerField(default=0, help_text='How often the call was made')),
                ('looks', models.IntegerField(default=0, help_text='How often Stripe was asked what became of it')),
                ('called_at', models.DateTimeField(blank=True, help_text='When the call was made first', null=True)),
                ('deadline_at', models.DateTimeField(help_text='After this whatever waits for the customer is ended')),
                ('next_look_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'payment',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='PaymentCard',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='card', primary_key=True, serialize=False)),
                ('stripe_id', models.TextField(unique=True)),
                ('brand', models.TextField(default='')),
                ('last_four', models.TextField(default='')),
                ('expires_month', models.SmallIntegerField(default=0)),
                ('expires_year', models.SmallIntegerField(default=0)),
                ('is_default', models.BooleanField(default=False)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('removed_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'payment_card',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Refund',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='refund', primary_key=True, serialize=False)),
                ('origin', models.TextField(choices=[('desk', 'by finance'), ('automatic', 'paid twice'), ('stripe', 'at Stripe')])),
                ('amount_usd', core.fields.UsdField()),
                ('tax_usd', core.fields.UsdField(default=0)),
                ('reason', models.TextField()),
                ('actor', models.TextField()),
                ('state', models.TextField(choices=[('waiting', 'waits for a second person'), ('refused', 'refused by a second person'), ('pending', 'Stripe has not been asked yet'), ('called', 'asked, no answer yet'), ('processing', 'under way at Stripe'), ('succeeded', 'Succeeded'), ('failed', 'Failed')])),
                ('stripe_id', models.TextField(blank=True, null=True, unique=True)),
                ('failure', models.TextField(default='')),
                ('attempts', models.IntegerField(default=0)),
                ('called_at', models.DateTimeField(blank=True, null=True)),
                ('next_look_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'refund',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='StripeCustomer',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('stripe_id', models.TextField(blank=True, null=True, unique=True)),
                ('made', models.IntegerField(default=1)),
                ('synced_at', models.DateTimeField(blank=True, help_text='When its cards were last asked for', null=True)),
                ('created_at', models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                'db_table': 'stripe_customer',
            },
        ),
        migrations.CreateModel(
            name='StripeEvent',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='evt', primary_key=True, serialize=False)),
                ('stripe_id', models.TextField(unique=True)),
                ('kind', models.TextField()),
                ('object_id', models.TextField(default='')),
                ('api_version', models.TextField(default='')),
                ('payload', models.TextField()),
                ('state', models.TextField(choices=[('received', 'waits'), ('processed', 'Processed'), ('ignored', 'Ignored'), ('failed', 'parked')], default='received')),
                ('outcome', models.TextField(default='')),
                ('attempts', models.IntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField(blank=True, null=True)),
                ('happened_at', models.DateTimeField(help_text="By Stripe's clock")),
                ('received_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('handled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'db_table': 'stripe_event',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='TopUpLimit',
            fields=[
                ('organization', models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, primary_key=True, related_name='+', serialize=False, to='orgs.organization')),
                ('topup_usd', core.fields.UsdField()),
                ('daily_usd', core.fields.UsdField()),
            ],
            options={
                'verbose_name': 'limit of top-ups',
                'verbose_name_plural': 'limits of top-ups',
                'db_table': 'topup_limit',
            },
        ),
        migrations.RemoveConstraint(
            model_name='topup',
            name='topup_one_open',
        ),
        migrations.RemoveConstraint(
            model_name='topup',
            name='topup_settled',
        ),
        migrations.AddField(
            model_name='topup',
            name='automatic',
            field=models.BooleanField(db_default=True, default=True, help_text='The wallet asked by itself'),
        ),
        migrations.AddField(
            model_name='topup',
            name='tax_usd',
            field=core.fields.UsdField(db_default=0, default=0),
        ),
        migrations.AlterField(
            model_name='topup',
            name='state',
            field=models.TextField(choices=[('pending', 'nobody has been asked for money yet'), ('processing', 'the payment is under way'), ('requires_action', 'waits for the customer'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('canceled', 'Canceled')], default='pending'),
        ),
        migrations.AddConstraint(
            model_name='topup',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ('pending', 'processing', 'requires_action'))), fields=('organization',), name='topup_one_open'),
        ),
        migrations.AddConstraint(
            model_name='topup',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lt', Decimal('100000000000'))), name='topup_tax_in_range'),
        ),
        migrations.AddConstraint(
            model_name='topup',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state__in', ('pending', 'processing', 'requires_action'))), models.Q(('settled_at__isnull', False), ('state__in', ('succeeded', 'failed', 'canceled'))), _connector='OR'), name='topup_settled'),
        ),
        migrations.AddField(
            model_name='dispute',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization'),
        ),
        migrations.AddField(
            model_name='payment',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization'),
        ),
        migrations.AddField(
            model_name='dispute',
            name='payment',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.payment'),
        ),
        migrations.AddField(
            model_name='paymentcard',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization'),
        ),
        migrations.AddField(
            model_name='payment',
            name='card',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.paymentcard'),
        ),
        migrations.AddField(
            model_name='refund',
            name='organization',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization'),
        ),
        migrations.AddField(
            model_name='refund',
            name='payment',
            field=models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='billing.payment'),
        ),
        migrations.AddIndex(
            model_name='stripeevent',
            index=models.Index(condition=models.Q(('state', 'received')), fields=['id'], name='stripe_event_waiting'),
        ),
        migrations.AddConstraint(
            model_name='stripeevent',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('handled_at__isnull', True), ('state', 'received')), models.Q(('handled_at__isnull', False), ('state__in', ('processed', 'ignored', 'failed')), models.Q(('outcome', ''), _negated=True)), _connector='OR'), name='stripe_event_has_an_outcome'),
        ),
        migrations.AddConstraint(
            model_name='topuplimit',
            constraint=models.CheckConstraint(condition=models.Q(('topup_usd__gte', 0), ('topup_usd__lt', Decimal('100000000000'))), name='topup_limit_in_range'),
        ),
        migrations.AddConstraint(
            model_name='topuplimit',
            constraint=models.CheckConstraint(condition=models.Q(('daily_usd__gte', 0), ('daily_usd__lt', Decimal('100000000000'))), name='topup_limit_daily_in_range'),
        ),
        migrations.AddIndex(
            model_name='dispute',
            index=models.Index(fields=['organization', '-id'], name='dispute_of_organization'),
        ),
        migrations.AddConstraint(
            model_name='dispute',
            constraint=models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='dispute_positive'),
        ),
        migrations.AddConstraint(
            model_name='dispute',
            constraint=models.CheckConstraint(condition=models.Q(('frozen_usd__gte', 0), ('tax_usd__gte', 0), ('tax_usd__lte', django.db.models.expressions.CombinedExpression(models.F('amount_usd'), '-', models.F('frozen_usd')))), name='dispute_parts_in_range'),
        ),
        migrations.AddIndex(
            model_name='paymentcard',
            index=models.Index(fields=['organization', '-id'], name='payment_card_of_organization'),
        ),
        migrations.AddConstraint(
            model_name='paymentcard',
            constraint=models.UniqueConstraint(condition=models.Q(('is_default', True)), fields=('organization',), name='payment_card_one_default'),
        ),
        migrations.AddConstraint(
            model_name='paymentcard',
            constraint=models.CheckConstraint(condition=models.Q(('is_default', False), ('removed_at__isnull', True), _connector='OR'), name='payment_card_default_is_there'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(fields=['organization', '-id'], name='payment_of_organization'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(fields=['subject_id'], name='payment_of_subject'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(condition=models.Q(('next_look_at__isnull', False)), fields=['next_look_at'], name='payment_due'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ('pending', 'called', 'requires_action', 'processing'))), fields=('purpose', 'subject_id'), name='payment_one_open'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='payment_positive'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lt', models.F('amount_usd'))), name='payment_tax_is_a_part'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('received_usd', 0), models.Q(('received_usd', models.F('amount_usd')), ('state', 'succeeded')), _connector='OR'), name='payment_received_all_or_nothing'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('refunded_usd__gte', 0), ('refunded_usd__lte', models.F('received_usd'))), name='payment_refunded_within_received'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state__in', ('pending', 'called', 'requires_action', 'processing'))), models.Q(('settled_at__isnull', False), ('state__in', ('succeeded', 'failed', 'canceled'))), _connector='OR'), name='payment_settled'),
        ),
        migrations.AddIndex(
            model_name='refund',
            index=models.Index(fields=['payment'], name='refund_of_payment'),
        ),
        migrations.AddIndex(
            model_name='refund',
            index=models.Index(condition=models.Q(('next_look_at__isnull', False)), fields=['next_look_at'], name='refund_due'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('amount_usd__gt', 0), ('amount_usd__lt', Decimal('100000000000'))), name='refund_positive'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('tax_usd__gte', 0), ('tax_usd__lte', models.F('amount_usd'))), name='refund_tax_is_a_part'),
        ),
        migrations.RunSQL(GUARDS, GUARDS_UNDO),
    ]
