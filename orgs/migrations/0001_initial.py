import core.clock
import core.fields
import core.ids
import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.text
import django.db.models.lookups
import django.utils.timezone
import orgs.models
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [
        migrations.CreateModel(
            name='Role',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='role', primary_key=True, serialize=False)),
                ('name', models.TextField(unique=True)),
                ('permissions', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None)),
            ],
            options={
                'db_table': 'role',
            },
        ),
        migrations.CreateModel(
            name='User',
            fields=[
                ('password', models.CharField(max_length=128, verbose_name='password')),
                ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                ('first_name', models.CharField(blank=True, max_length=150, verbose_name='first name')),
                ('last_name', models.CharField(blank=True, max_length=150, verbose_name='last name')),
                ('is_staff', models.BooleanField(default=False, help_text='Designates whether the user can log into this admin site.', verbose_name='staff status')),
                ('is_active', models.BooleanField(default=True, help_text='Designates whether this user should be treated as active. Unselect this instead of deleting accounts.', verbose_name='active')),
                ('date_joined', models.DateTimeField(default=django.utils.timezone.now, verbose_name='date joined')),
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='user', primary_key=True, serialize=False)),
                ('email', models.EmailField(max_length=254, unique=True)),
                ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
            ],
            options={
                'db_table': 'account_user',
            },
            managers=[
                ('objects', orgs.models.UserManager()),
            ],
        ),
        migrations.CreateModel(
            name='CacheEpoch',
            fields=[
                ('id', models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ('value', models.BigIntegerField(default=0)),
            ],
            options={
                'db_table': 'cache_epoch',
                'constraints': [models.CheckConstraint(condition=models.Q(('id', 1)), name='cache_epoch_one_row')],
            },
        ),
        migrations.CreateModel(
            name='Organization',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='org', primary_key=True, serialize=False)),
                ('slug', models.TextField(unique=True)),
                ('name', models.TextField()),
                ('time_zone', models.TextField(default='UTC')),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('closed_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('personal_of', models.OneToOneField(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'db_table': 'organization',
            },
        ),
        migrations.CreateModel(
            name='AuditEntry',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='aud', primary_key=True, serialize=False)),
                ('actor_kind', models.TextField()),
                ('actor_id', models.TextField()),
                ('actor_label', models.TextField()),
                ('verb', models.TextField()),
                ('subject_type', models.TextField()),
                ('subject_id', models.TextField()),
                ('details', models.JSONField(default=dict)),
                ('at', models.DateTimeField(default=core.clock.now)),
                ('organization', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'verbose_name_plural': 'audit entries',
                'db_table': 'audit_entry',
            },
        ),
        migrations.CreateModel(
            name='Project',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='proj', primary_key=True, serialize=False)),
                ('name', models.TextField()),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('archived_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
            ],
            options={
                'db_table': 'project',
            },
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='key', primary_key=True, serialize=False)),
                ('kind', models.TextField(choices=[('organization', 'Organization'), ('personal', 'Personal'), ('service', 'Service')])),
                ('name', models.TextField()),
                ('digest', models.BinaryField(unique=True)),
                ('last_four', models.TextField()),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None)),
                ('allowed_models', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None)),
                ('cidrs', django.contrib.postgres.fields.ArrayField(base_field=models.TextField(), default=list, size=None)),
                ('organizations', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), default=list, size=None)),
                ('trust_client_header', models.BooleanField(default=False)),
                ('expires_at', models.DateTimeField(null=True)),
                ('revoked_at', models.DateTimeField(editable=False, null=True)),
                ('deleted_at', models.DateTimeField(editable=False, null=True)),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('created_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('project', models.ForeignKey(null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.project')),
            ],
            options={
                'db_table': 'api_key',
            },
        ),
        migrations.CreateModel(
            name='Member',
            fields=[
                ('id', core.fields.IdField(default=core.ids.new, editable=False, prefix='mem', primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(default=core.clock.now, editable=False)),
                ('removed_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('organization', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.organization')),
                ('role', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='orgs.role')),
            ],
            options={
                'db_table': 'member',
            },
        ),
        migrations.AddConstraint(
            model_name='user',
            constraint=models.CheckConstraint(condition=models.Q(('email', django.db.models.functions.text.Lower(models.F('email')))), name='user_email_lower'),
        ),
        migrations.AddConstraint(
            model_name='organization',
            constraint=models.CheckConstraint(condition=models.Q(('slug__regex', '^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$')), name='organization_slug_rule'),
        ),
        migrations.AddIndex(
            model_name='auditentry',
            index=models.Index(fields=['organization', '-id'], name='audit_by_organization'),
        ),
        migrations.AddIndex(
            model_name='auditentry',
            index=models.Index(fields=['subject_id', '-id'], name='audit_by_subject'),
        ),
        migrations.AddConstraint(
            model_name='project',
            constraint=models.UniqueConstraint(condition=models.Q(('archived_at__isnull', True)), fields=('organization', 'name'), name='project_name_once'),
        ),
        migrations.AddIndex(
            model_name='apikey',
            index=models.Index(fields=['organization', '-id'], name='api_key_by_organization'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'organization'), ('organization__isnull', False), ('user__isnull', True)), models.Q(('kind', 'personal'), ('organization__isnull', False), ('project__isnull', True), ('user__isnull', False)), models.Q(('kind', 'service'), ('organization__isnull', True), ('project__isnull', True), ('user__isnull', True)), _connector='OR'), name='api_key_kind'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('kind', 'service'), models.Q(('organizations', []), ('trust_client_header', False)), _connector='OR'), name='api_key_service_only'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('deleted_at__isnull', True), ('revoked_at__isnull', False), _connector='OR'), name='api_key_deleted_is_revoked'),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=django.db.models.lookups.Exact(django.db.models.functions.text.Length('digest'), 32), name='api_key_digest_sha256'),
        ),
        migrations.AddConstraint(
            model_name='member',
            constraint=models.UniqueConstraint(condition=models.Q(('removed_at__isnull', True)), fields=('organization', 'user'), name='member_active_once'),
        ),
        # Every append-only table of the product hangs its triggers on this function.
        migrations.RunSQL(
            sql="""
                CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN
                    RAISE EXCEPTION 'the books are append-only'
                        USING ERRCODE = 'integrity_constraint_violation', DETAIL = TG_OP || ' on ' || TG_TABLE_NAME;
                END
                $$
            """,
            reverse_sql="DROP FUNCTION refuse_change()",
        ),
        migrations.RunSQL(
            sql="""
                CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_entry
                    FOR EACH ROW EXECUTE FUNCTION refuse_change();
                CREATE TRIGGER append_only_truncate BEFORE TRUNCATE ON audit_entry
                    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
            """,
            reverse_sql="""
                DROP TRIGGER append_only_truncate ON audit_entry;
                DROP TRIGGER append_only ON audit_entry
            """,
        ),
    ]
