"""What the scheduled checks last found."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0005_grants_holds_budgets'),
    ]

    operations = [
        migrations.CreateModel(
            name='CheckRun',
            fields=[
                ('name', models.TextField(primary_key=True, serialize=False)),
                ('ok', models.BooleanField()),
                ('seen', models.BigIntegerField(help_text='How many rows were looked at')),
                ('detail', models.TextField(default='')),
                ('began_at', models.DateTimeField(help_text='When the run began, and so the moment of the books that it saw')),
                ('took_ms', models.IntegerField()),
                ('everything', models.BooleanField(help_text='Not only what is new since the last sealed day')),
            ],
            options={
                'db_table': 'check_run',
                'ordering': ('ok', 'name'),
            },
        ),
    ]
