"""Where customers are told what happens, what is on its way there, and mails."""

import core.clock
import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('ops', '0003_outbox_and_idempotency'),
        ('orgs', '0003_price_group'),
    ]

    operations = [
        migrations.CreateModel(
            name='WebhookEndpoint',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='we', primary_key=True, serialize=False)),
                ('slot', models.SmallIntegerField()),
                ('url', models.TextField()),
                ('kinds', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None)),
                ('secret', models.BinaryField()),
                ('old_secret', models.BinaryField(null=True)),
                ('old_secret_until', models.DateTimeField(null=True)),
                ('enabled', models.BooleanField(default=True)),
                ('disabled_at', models.DateTimeField(null=True)),
                ('disabled_reason', models.TextField(default='')),
                ('failing_since', models.DateTimeField(null=True)),
                ('busy_until', models.DateTimeField(null=True)),
                ('created_by', models.TextField()),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('deleted_at', models.DateTimeField(editable=False, null=True)),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'webhook_endpoint',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='WebhookDelivery',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='wd', primary_key=True, serialize=False)),
                ('state', models.TextField(choices=[('pending', 'Pending'), ('succeeded', 'Succeeded'), ('failed', 'Failed'), ('canceled', 'Canceled')], default='pending')),
                ('attempts', models.IntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField(null=True)),
                ('leased_until', models.DateTimeField(null=True)),
                ('last_attempt_at', models.DateTimeField(null=True)),
                ('status', models.SmallIntegerField(help_text='What was answered last; empty: nothing', null=True)),
                ('took_ms', models.IntegerField(null=True)),
                ('failure', models.TextField(default='', help_text='Why nothing was answered')),
                ('excerpt', models.TextField(default='', help_text='First words of a refusal')),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('done_at', models.DateTimeField(null=True)),
                ('message', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='ops.outboxmessage')),
                ('organization', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('endpoint', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='ops.webhookendpoint')),
            ],
            options={
                'verbose_name_plural': 'webhook deliveries',
                'db_table': 'webhook_delivery',
                'ordering': ('-id',),
            },
        ),
        migrations.CreateModel(
            name='Mail',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='mail', primary_key=True, serialize=False)),
                ('kind', models.TextField(help_text='Such as invoice.finalized')),
                ('key', models.TextField()),
                ('recipient', models.TextField()),
                ('subject', models.TextField()),
                ('text', models.TextField()),
                ('html', models.TextField(default='')),
                ('attachments', models.JSONField(default=list)),
                ('state', models.TextField(choices=[('pending', 'Pending'), ('sending', 'Sending'), ('sent', 'Sent'), ('doubtful', 'Doubtful'), ('failed', 'Failed')], default='pending')),
                ('attempts', models.IntegerField(default=0)),
                ('next_attempt_at', models.DateTimeField(null=True)),
                ('leased_until', models.DateTimeField(null=True)),
                ('failure', models.TextField(default='')),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('sent_at', models.DateTimeField(null=True)),
                ('organization', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'mail',
                'ordering': ('-id',),
                'indexes': [models.Index(condition=models.Q(('state', 'pending')), fields=['next_attempt_at'], name='mail_waiting'), models.Index(condition=models.Q(('state', 'sending')), fields=['leased_until'], name='mail_sending')],
                'constraints': [models.UniqueConstraint(fields=('kind', 'key', 'recipient'), name='mail_once'), models.CheckConstraint(condition=models.Q(('attempts__gte', 0)), name='mail_attempts_not_negative'), models.CheckConstraint(condition=models.Q(models.Q(('next_attempt_at__isnull', False), ('state', 'pending')), models.Q(models.Q(('state', 'pending'), _negated=True), ('next_attempt_at__isnull', True)), _connector='OR'), name='mail_pending'), models.CheckConstraint(condition=models.Q(models.Q(('sent_at__isnull', False), ('state', 'sent')), models.Q(models.Q(('state', 'sent'), _negated=True), ('sent_at__isnull', True)), _connector='OR'), name='mail_sent')],
            },
        ),
        migrations.AddIndex(
            model_name='webhookendpoint',
            index=models.Index(fields=['organization', '-id'], name='endpoint_by_organization'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.UniqueConstraint(condition=models.Q(('deleted_at__isnull', True)), fields=('organization', 'slot'), name='webhook_endpoint_slot_once'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(('slot__gte', 0), ('slot__lt', 10)), name='webhook_endpoint_slots'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('disabled_at__isnull', True), ('disabled_reason', ''), ('enabled', True)), models.Q(('disabled_at__isnull', False), ('enabled', False), models.Q(('disabled_reason', ''), _negated=True)), _connector='OR'), name='webhook_endpoint_disabled'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('old_secret__isnull', True), ('old_secret_until__isnull', True)), models.Q(('old_secret__isnull', False), ('old_secret_until__isnull', False)), _connector='OR'), name='webhook_endpoint_old_secret'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['endpoint', '-id'], name='delivery_by_endpoint'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('state', 'pending')), fields=['endpoint', 'next_attempt_at'], name='delivery_waiting'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.UniqueConstraint(fields=('message', 'endpoint'), name='webhook_delivery_once'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(('attempts__gte', 0)), name='webhook_delivery_attempts_not_negative'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('done_at__isnull', True), ('next_attempt_at__isnull', False), ('state', 'pending')), models.Q(models.Q(('state', 'pending'), _negated=True), ('done_at__isnull', False), ('next_attempt_at__isnull', True)), _connector='OR'), name='webhook_delivery_pending'),
        ),
    ]
